-- The new method pays the whole amount, the old one gets it back; gift cards are charged and credited at once.
WITH paid AS (
  SELECT o.order_id, o.payment_history #>> '{0,payment_method_id}' AS old_id,
         $1::jsonb ->> 'payment_method_id' AS new_id, (o.payment_history #>> '{0,amount_cents}')::bigint AS cents
  FROM retail.orders o WHERE o.order_id = $1::jsonb ->> 'order_id'
),
o AS (
  UPDATE retail.orders o
  SET payment_history = o.payment_history || jsonb_build_array(
        jsonb_build_object('transaction_type', 'payment', 'amount_cents', cents, 'payment_method_id', new_id),
        jsonb_build_object('transaction_type', 'refund', 'amount_cents', cents, 'payment_method_id', old_id)),
      version = o.version + 1
  FROM paid
  WHERE o.order_id = paid.order_id AND o.status = 'pending'
  RETURNING o.*
),
u AS (
  UPDATE retail.users u
  SET payment_methods = (
        SELECT jsonb_object_agg(id, CASE WHEN method ->> 'source' <> 'gift_card' THEN method
          ELSE method || jsonb_build_object('balance_cents', (method ->> 'balance_cents')::bigint
            + CASE id WHEN paid.old_id THEN paid.cents WHEN paid.new_id THEN -paid.cents ELSE 0 END) END)
        FROM jsonb_each(u.payment_methods) AS m (id, method)),
      version = u.version + 1
  FROM o, paid
  WHERE u.user_id = o.user_id
    AND 'gift_card' IN (u.payment_methods -> paid.old_id ->> 'source', u.payment_methods -> paid.new_id ->> 'source')
  RETURNING u.*
)
SELECT o.order_id, o.status,
       encode(sha256(convert_to(to_jsonb(o)::text, 'UTF8')), 'hex') AS order_hash,
       (SELECT encode(sha256(convert_to(to_jsonb(u)::text, 'UTF8')), 'hex') FROM u) AS customer_hash
FROM o
