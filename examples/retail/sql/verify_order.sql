-- The rows are, to the last byte, what the write returned: nothing less, and nobody wrote since.
SELECT $2::jsonb #>> '{result,rows,0,order_hash}' = encode(sha256(convert_to(to_jsonb(o)::text, 'UTF8')), 'hex')
   AND coalesce($2::jsonb #>> '{result,rows,0,customer_hash}' = encode(sha256(convert_to(to_jsonb(u)::text, 'UTF8')), 'hex'),
                jsonb_typeof($2::jsonb #> '{result,rows,0,customer_hash}') = 'null') AS ok
FROM retail.orders o JOIN retail.users u USING (user_id)
WHERE o.order_id = $1::jsonb ->> 'order_id'
