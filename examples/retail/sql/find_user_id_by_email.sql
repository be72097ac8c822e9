-- Serves as observation and as answer. owner is empty when there is no such customer.
SELECT u.user_id IS NOT NULL AS user_exists, coalesce('user:' || u.user_id, '') AS owner
FROM (VALUES ($1::jsonb ->> 'email')) AS arg (email)
LEFT JOIN LATERAL (SELECT user_id FROM retail.users WHERE lower(users.email) = lower(arg.email COLLATE "pg_c_utf8")
                   ORDER BY user_id LIMIT 1) u ON true
