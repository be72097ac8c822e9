SELECT NULL::text AS "order", to_jsonb(u)::text AS customer
FROM retail.users u WHERE u.user_id = $1::jsonb ->> 'user_id' FOR UPDATE OF u
