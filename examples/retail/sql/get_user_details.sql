SELECT u.user_id, u.first_name, u.last_name, u.email, u.address, u.orders,
       (SELECT coalesce(jsonb_agg(method ORDER BY id), '[]') FROM jsonb_each(u.payment_methods) AS m (id, method))
         AS payment_methods
FROM retail.users u WHERE u.user_id = $1::jsonb ->> 'user_id'
