SELECT u.user_id IS NOT NULL AS user_exists, coalesce('user:' || u.user_id, '') AS owner
FROM (VALUES ($1::jsonb ->> 'first_name', $1::jsonb ->> 'last_name', $1::jsonb ->> 'zip')) AS arg (first_name, last_name, zip)
LEFT JOIN LATERAL (SELECT user_id FROM retail.users
                   WHERE lower(users.first_name) = lower(arg.first_name COLLATE "pg_c_utf8")
                     AND lower(users.last_name) = lower(arg.last_name COLLATE "pg_c_utf8")
                     AND users.address ->> 'zip' = arg.zip
                   ORDER BY user_id LIMIT 1) u ON true
