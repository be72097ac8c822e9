UPDATE retail.orders o
SET status = 'return requested',
    return_items = (SELECT coalesce(jsonb_agg(id ORDER BY id COLLATE "C"), '[]')
                    FROM jsonb_array_elements_text($1::jsonb -> 'item_ids') AS id),
    return_payment_method_id = $1::jsonb ->> 'payment_method_id',
    version = o.version + 1
WHERE o.order_id = $1::jsonb ->> 'order_id' AND o.status = 'delivered'
RETURNING o.order_id, o.status,
          encode(sha256(convert_to(to_jsonb(o)::text, 'UTF8')), 'hex') AS order_hash, NULL::text AS customer_hash
