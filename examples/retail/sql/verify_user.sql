SELECT $2::jsonb #>> '{result,rows,0,customer_hash}' = encode(sha256(convert_to(to_jsonb(u)::text, 'UTF8')), 'hex') AS ok
FROM retail.users u WHERE u.user_id = $1::jsonb ->> 'user_id'
