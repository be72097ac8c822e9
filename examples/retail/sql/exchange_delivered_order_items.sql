-- Only the request is recorded; the difference is settled when the items come back, so no balance moves here.
WITH due AS (
  SELECT coalesce(sum(v.price_cents - (
    SELECT (item ->> 'price_cents')::bigint FROM jsonb_array_elements(o.items) AS item
    WHERE item ->> 'item_id' = p.old_id LIMIT 1)), 0)::bigint AS cents
  FROM retail.orders o
  CROSS JOIN ROWS FROM (
    jsonb_array_elements_text($1::jsonb -> 'item_ids'), jsonb_array_elements_text($1::jsonb -> 'new_item_ids')
  ) AS p (old_id, new_id)
  JOIN retail.variants v ON v.item_id = p.new_id
  WHERE o.order_id = $1::jsonb ->> 'order_id'
)
UPDATE retail.orders o
SET status = 'exchange requested',
    exchange_items = (SELECT coalesce(jsonb_agg(id ORDER BY id COLLATE "C"), '[]')
                      FROM jsonb_array_elements_text($1::jsonb -> 'item_ids') AS id),
    exchange_new_items = (SELECT coalesce(jsonb_agg(id ORDER BY id COLLATE "C"), '[]')
                          FROM jsonb_array_elements_text($1::jsonb -> 'new_item_ids') AS id),
    exchange_payment_method_id = $1::jsonb ->> 'payment_method_id',
    exchange_price_difference_cents = due.cents,
    version = o.version + 1
FROM due
WHERE o.order_id = $1::jsonb ->> 'order_id' AND o.status = 'delivered'
RETURNING o.order_id, o.status,
          encode(sha256(convert_to(to_jsonb(o)::text, 'UTF8')), 'hex') AS order_hash, NULL::text AS customer_hash
