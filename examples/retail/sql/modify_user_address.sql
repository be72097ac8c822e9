UPDATE retail.users u
SET address = jsonb_build_object(
      'address1', $1::jsonb -> 'address1', 'address2', $1::jsonb -> 'address2', 'city', $1::jsonb -> 'city',
      'state', $1::jsonb -> 'state', 'country', $1::jsonb -> 'country', 'zip', $1::jsonb -> 'zip'),
    version = u.version + 1
WHERE u.user_id = $1::jsonb ->> 'user_id'
RETURNING u.user_id, encode(sha256(convert_to(to_jsonb(u)::text, 'UTF8')), 'hex') AS customer_hash
