-- What the order's rules need to know. A missing order is a row of its own, so that policy can name the reason.
SELECT o.order_id IS NOT NULL AS order_exists,
       coalesce('user:' || o.user_id, '') AS owner,
       coalesce(o.status, '') AS order_status
FROM (VALUES ($1::jsonb ->> 'order_id')) AS arg (order_id)
LEFT JOIN retail.orders o ON o.order_id = arg.order_id
