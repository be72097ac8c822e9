-- Modify and exchange: items are replaced pair by pair. due_cents is what the customer owes (negative: is refunded).
WITH arg AS (SELECT $1::jsonb AS a),
asked AS (
  SELECT item_id, count(*) AS n FROM arg, jsonb_array_elements_text(a -> 'item_ids') AS item_id GROUP BY item_id
),
held AS (
  SELECT item ->> 'item_id' AS item_id, count(*) AS n,
         (array_agg(item ->> 'product_id' ORDER BY position))[1] AS product_id,
         (array_agg((item ->> 'price_cents')::bigint ORDER BY position))[1] AS price_cents
  FROM arg, retail.orders o, jsonb_array_elements(o.items) WITH ORDINALITY AS i (item, position)
  WHERE o.order_id = a ->> 'order_id' GROUP BY 1
),
pair AS (
  SELECT held.product_id AS old_product, held.price_cents AS old_cents,
         v.product_id AS new_product, v.price_cents AS new_cents, v.available
  FROM arg
  CROSS JOIN ROWS FROM (
    jsonb_array_elements_text(a -> 'item_ids'), jsonb_array_elements_text(a -> 'new_item_ids')
  ) AS p (old_id, new_id)
  LEFT JOIN held ON held.item_id = p.old_id
  LEFT JOIN retail.variants v ON v.item_id = p.new_id
  WHERE p.old_id IS NOT NULL AND p.new_id IS NOT NULL
)
SELECT o.order_id IS NOT NULL AS order_exists,
       coalesce('user:' || o.user_id, '') AS owner,
       coalesce(o.status, '') AS order_status,
       jsonb_array_length(a -> 'item_ids') AS item_count,
       jsonb_array_length(a -> 'new_item_ids') AS new_item_count,
       (SELECT coalesce(sum(greatest(asked.n - coalesce(held.n, 0), 0)), 0)::bigint
        FROM asked LEFT JOIN held USING (item_id)) AS missing_item_count,
       (SELECT count(*) FROM pair WHERE new_product IS NULL OR NOT available) AS unavailable_item_count,
       (SELECT count(*) FROM pair WHERE new_product <> old_product) AS other_product_count,
       (SELECT coalesce(sum(new_cents - old_cents), 0)::bigint FROM pair) AS due_cents,
       m.method IS NOT NULL AS payment_exists,
       coalesce(m.method ->> 'source', '') AS payment_source,
       coalesce((m.method ->> 'balance_cents')::bigint, 0) AS balance_cents
FROM arg
LEFT JOIN retail.orders o ON o.order_id = a ->> 'order_id'
LEFT JOIN retail.users u ON u.user_id = o.user_id
LEFT JOIN LATERAL (SELECT u.payment_methods -> (a ->> 'payment_method_id') AS method) m ON true
