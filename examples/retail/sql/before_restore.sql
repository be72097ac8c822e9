SELECT (SELECT to_jsonb(o)::text FROM retail.orders o
        WHERE o.order_id = ($1::jsonb ->> 'order')::jsonb ->> 'order_id' FOR UPDATE) AS "order",
       (SELECT to_jsonb(u)::text FROM retail.users u
        WHERE u.user_id = ($1::jsonb ->> 'customer')::jsonb ->> 'user_id' FOR UPDATE) AS customer
