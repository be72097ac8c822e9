SELECT coalesce((SELECT to_jsonb(o) - 'version' = ($1::jsonb ->> 'order')::jsonb - 'version' FROM retail.orders o
                 WHERE o.order_id = ($1::jsonb ->> 'order')::jsonb ->> 'order_id'), $1::jsonb ->> 'order' IS NULL)
   AND coalesce((SELECT to_jsonb(u) - 'version' = ($1::jsonb ->> 'customer')::jsonb - 'version' FROM retail.users u
                 WHERE u.user_id = ($1::jsonb ->> 'customer')::jsonb ->> 'user_id'), $1::jsonb ->> 'customer' IS NULL) AS ok
