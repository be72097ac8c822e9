UPDATE retail.orders o
SET address = jsonb_build_object(
      'address1', $1::jsonb -> 'address1', 'address2', $1::jsonb -> 'address2', 'city', $1::jsonb -> 'city',
      'state', $1::jsonb -> 'state', 'country', $1::jsonb -> 'country', 'zip', $1::jsonb -> 'zip'),
    version = o.version + 1
WHERE o.order_id = $1::jsonb ->> 'order_id' AND o.status = 'pending'
RETURNING o.order_id, o.status,
          encode(sha256(convert_to(to_jsonb(o)::text, 'UTF8')), 'hex') AS order_hash, NULL::text AS customer_hash
