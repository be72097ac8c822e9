-- The before-image of a write that may move money: the order and its customer, both locked.
SELECT to_jsonb(o)::text AS "order", to_jsonb(u)::text AS customer
FROM retail.orders o JOIN retail.users u USING (user_id)
WHERE o.order_id = $1::jsonb ->> 'order_id'
FOR UPDATE OF o, u
