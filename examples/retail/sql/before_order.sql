-- The before-image: the order as it is, locked until the end of the transaction.
SELECT to_jsonb(o)::text AS "order", NULL::text AS customer
FROM retail.orders o
WHERE o.order_id = $1::jsonb ->> 'order_id'
FOR UPDATE OF o
