-- Puts back the rows of a before-image, if nobody wrote since: every write raises `version` by one, and so does this.
-- A customer's row that the write had left alone is put back unchanged.
WITH arg AS (
  SELECT ($1::jsonb ->> 'order')::jsonb AS "order", ($1::jsonb ->> 'customer')::jsonb AS customer
),
o AS (
  UPDATE retail.orders o
  SET (address, items, status, payment_history, cancel_reason, return_items, return_payment_method_id, exchange_items,
       exchange_new_items, exchange_payment_method_id, exchange_price_difference_cents, version) =
      (SELECT r.address, r.items, r.status, r.payment_history, r.cancel_reason, nullif(r.return_items, 'null'),
              r.return_payment_method_id, nullif(r.exchange_items, 'null'), nullif(r.exchange_new_items, 'null'),
              r.exchange_payment_method_id, r.exchange_price_difference_cents, o.version + 1
       FROM jsonb_populate_record(NULL::retail.orders, arg."order") AS r)
  FROM arg
  WHERE o.order_id = arg."order" ->> 'order_id' AND o.version = (arg."order" ->> 'version')::int + 1
  RETURNING o.order_id
),
u AS (
  UPDATE retail.users u
  SET (address, payment_methods, version) =
      (SELECT r.address, r.payment_methods, u.version + 1
       FROM jsonb_populate_record(NULL::retail.users, arg.customer) AS r)
  FROM arg
  WHERE u.user_id = arg.customer ->> 'user_id'
    AND u.version IN ((arg.customer ->> 'version')::int, (arg.customer ->> 'version')::int + 1)
  RETURNING u.user_id
)
SELECT (SELECT order_id FROM o) AS order_id, (SELECT user_id FROM u) AS user_id
FROM arg
WHERE (arg."order" IS NULL OR EXISTS (SELECT FROM o)) AND (arg.customer IS NULL OR EXISTS (SELECT FROM u))
