-- Every entry of the payment history is answered by a refund to the same method; gift cards are credited at once.
WITH o AS (
  UPDATE retail.orders o
  SET status = 'cancelled',
      cancel_reason = $1::jsonb ->> 'reason',
      payment_history = o.payment_history || coalesce((
        SELECT jsonb_agg(paid || '{"transaction_type": "refund"}' ORDER BY position)
        FROM jsonb_array_elements(o.payment_history) WITH ORDINALITY AS h (paid, position)), '[]'),
      version = o.version + 1
  WHERE o.order_id = $1::jsonb ->> 'order_id' AND o.status = 'pending'
  RETURNING o.*
),
credit AS (
  SELECT entry ->> 'payment_method_id' AS id, sum((entry ->> 'amount_cents')::bigint) AS cents
  FROM retail.orders earlier, jsonb_array_elements(earlier.payment_history) AS entry
  WHERE earlier.order_id = $1::jsonb ->> 'order_id' GROUP BY 1
),
u AS (
  UPDATE retail.users u
  SET payment_methods = (
        SELECT jsonb_object_agg(id, CASE WHEN method ->> 'source' = 'gift_card' AND credit.cents IS NOT NULL
          THEN method || jsonb_build_object('balance_cents', (method ->> 'balance_cents')::bigint + credit.cents)
          ELSE method END)
        FROM jsonb_each(u.payment_methods) AS m (id, method) LEFT JOIN credit USING (id)),
      version = u.version + 1
  FROM o
  WHERE u.user_id = o.user_id
    AND EXISTS (SELECT FROM credit WHERE u.payment_methods -> credit.id ->> 'source' = 'gift_card')
  RETURNING u.*
)
SELECT o.order_id, o.status,
       encode(sha256(convert_to(to_jsonb(o)::text, 'UTF8')), 'hex') AS order_hash,
       (SELECT encode(sha256(convert_to(to_jsonb(u)::text, 'UTF8')), 'hex') FROM u) AS customer_hash
FROM o
