-- As observe_order.sql, and the payment method that is asked for against the order's own payments.
SELECT o.order_id IS NOT NULL AS order_exists,
       coalesce('user:' || o.user_id, '') AS owner,
       coalesce(o.status, '') AS order_status,
       m.method IS NOT NULL AS payment_exists,
       coalesce(m.method ->> 'source', '') AS payment_source,
       coalesce((m.method ->> 'balance_cents')::bigint, 0) AS balance_cents,
       coalesce(jsonb_array_length(o.payment_history), 0) AS payment_count,
       coalesce(o.payment_history #>> '{0,transaction_type}', '') AS first_payment_type,
       coalesce((o.payment_history #>> '{0,amount_cents}')::bigint, 0) AS due_cents,
       coalesce(o.payment_history #>> '{0,payment_method_id}' = arg.payment_method_id, false) AS payment_is_original
FROM (VALUES ($1::jsonb ->> 'order_id', $1::jsonb ->> 'payment_method_id')) AS arg (order_id, payment_method_id)
LEFT JOIN retail.orders o ON o.order_id = arg.order_id
LEFT JOIN retail.users u ON u.user_id = o.user_id
LEFT JOIN LATERAL (SELECT u.payment_methods -> arg.payment_method_id AS method) m ON true
