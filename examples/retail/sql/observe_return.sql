-- As observe_payment.sql, and how many of the items asked for are not in the order (one too many counts too).
WITH arg AS (SELECT $1::jsonb AS a),
asked AS (
  SELECT item_id, count(*) AS n FROM arg, jsonb_array_elements_text(a -> 'item_ids') AS item_id GROUP BY item_id
),
held AS (
  SELECT item ->> 'item_id' AS item_id, count(*) AS n
  FROM arg, retail.orders o, jsonb_array_elements(o.items) AS item
  WHERE o.order_id = a ->> 'order_id' GROUP BY 1
)
SELECT o.order_id IS NOT NULL AS order_exists,
       coalesce('user:' || o.user_id, '') AS owner,
       coalesce(o.status, '') AS order_status,
       m.method IS NOT NULL AS payment_exists,
       coalesce(m.method ->> 'source', '') AS payment_source,
       coalesce(o.payment_history #>> '{0,payment_method_id}' = a ->> 'payment_method_id', false) AS payment_is_original,
       (SELECT coalesce(sum(greatest(asked.n - coalesce(held.n, 0), 0)), 0)::bigint
        FROM asked LEFT JOIN held USING (item_id)) AS missing_item_count
FROM arg
LEFT JOIN retail.orders o ON o.order_id = a ->> 'order_id'
LEFT JOIN retail.users u ON u.user_id = o.user_id
LEFT JOIN LATERAL (SELECT u.payment_methods -> (a ->> 'payment_method_id') AS method) m ON true
