-- Each pair replaces the first item that still has the old id, in the order of the list; then the difference is paid
-- or refunded, a gift card at once.
WITH RECURSIVE pair AS (
  SELECT p.position, p.old_id, v.item_id AS new_id, v.options, v.price_cents
  FROM ROWS FROM (
    jsonb_array_elements_text($1::jsonb -> 'item_ids'), jsonb_array_elements_text($1::jsonb -> 'new_item_ids')
  ) WITH ORDINALITY AS p (old_id, new_id, position)
  JOIN retail.variants v ON v.item_id = p.new_id
),
step (done, items) AS (
  SELECT 0::bigint, o.items FROM retail.orders o WHERE o.order_id = $1::jsonb ->> 'order_id'
  UNION ALL
  SELECT pair.position, (
    SELECT jsonb_agg(CASE WHEN i.position = hit.position
        THEN item || jsonb_build_object('item_id', new_id, 'options', options, 'price_cents', price_cents)
        ELSE item END ORDER BY i.position)
    FROM jsonb_array_elements(step.items) WITH ORDINALITY AS i (item, position),
         (SELECT min(c.position) AS position FROM jsonb_array_elements(step.items) WITH ORDINALITY AS c (candidate, position)
          WHERE candidate ->> 'item_id' = old_id) AS hit)
  FROM step JOIN pair ON pair.position = step.done + 1
),
due AS (
  SELECT coalesce(sum(pair.price_cents - (
    SELECT (item ->> 'price_cents')::bigint FROM jsonb_array_elements(o.items) AS item
    WHERE item ->> 'item_id' = old_id LIMIT 1)), 0)::bigint AS cents
  FROM retail.orders o, pair WHERE o.order_id = $1::jsonb ->> 'order_id'
),
o AS (
  UPDATE retail.orders o
  SET items = (SELECT items FROM step ORDER BY done DESC LIMIT 1),
      status = 'pending (item modified)',
      payment_history = o.payment_history || jsonb_build_object(
        'transaction_type', CASE WHEN due.cents > 0 THEN 'payment' ELSE 'refund' END,
        'amount_cents', abs(due.cents), 'payment_method_id', $1::jsonb ->> 'payment_method_id'),
      version = o.version + 1
  FROM due
  WHERE o.order_id = $1::jsonb ->> 'order_id' AND o.status = 'pending'
  RETURNING o.*
),
u AS (
  UPDATE retail.users u
  SET payment_methods = jsonb_set(u.payment_methods, ARRAY[$1::jsonb ->> 'payment_method_id', 'balance_cents'],
        to_jsonb((u.payment_methods #>> ARRAY[$1::jsonb ->> 'payment_method_id', 'balance_cents'])::bigint - due.cents)),
      version = u.version + 1
  FROM o, due
  WHERE u.user_id = o.user_id AND u.payment_methods -> ($1::jsonb ->> 'payment_method_id') ->> 'source' = 'gift_card'
  RETURNING u.*
)
SELECT o.order_id, o.status,
       encode(sha256(convert_to(to_jsonb(o)::text, 'UTF8')), 'hex') AS order_hash,
       (SELECT encode(sha256(convert_to(to_jsonb(u)::text, 'UTF8')), 'hex') FROM u) AS customer_hash
FROM o
