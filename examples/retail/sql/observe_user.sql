SELECT u.user_id IS NOT NULL AS user_exists, coalesce('user:' || u.user_id, '') AS owner
FROM (VALUES ($1::jsonb ->> 'user_id')) AS arg (user_id)
LEFT JOIN retail.users u ON u.user_id = arg.user_id
