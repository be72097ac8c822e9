-- Arithmetic by rewriting, one operation a step: a text never becomes SQL, so there is nothing to inject into.
-- A number is ~?digits (~ is a negative sign); only what is left at the end as one number is valid.
WITH RECURSIVE input AS (
  SELECT $1::jsonb ->> 'expression' AS given
),
step (n, e) AS (
  SELECT 0, CASE WHEN given ~ '^[-0-9+*/(). ]{1,200}$' AND given !~ '[0-9.)] *[(]|[)0-9.] +[0-9.]|[)][0-9.]|[0-9.]{16}'
                 THEN replace(given, ' ', '') ELSE '' END
  FROM input
  UNION ALL
  SELECT n + 1, CASE
    WHEN e ~ '\(~?(\d+\.?\d*|\.\d+)\)' THEN regexp_replace(e, '\((~?(\d+\.?\d*|\.\d+))\)', '\1')
    WHEN e ~ '(^|[-(+*/])\+~?[0-9.]' THEN regexp_replace(e, '(^|[-(+*/])\+(~?[0-9.])', '\1\2')
    WHEN e ~ '(^|[-(+*/])-~[0-9.]' THEN regexp_replace(e, '(^|[-(+*/])-~([0-9.])', '\1\2')
    WHEN e ~ '(^|[-(+*/])-[0-9.]' THEN regexp_replace(e, '(^|[-(+*/])-([0-9.])', '\1~\2')
    WHEN product IS NOT NULL THEN regexp_replace(
      regexp_replace(e, '(^|[-(+])(~?(\d+\.?\d*|\.\d+))([*/])(~?(\d+\.?\d*|\.\d+))', '\1#'), '#', product_value.text)
    WHEN total IS NOT NULL THEN regexp_replace(
      regexp_replace(e, '(^|\()(~?(\d+\.?\d*|\.\d+))([-+])(~?(\d+\.?\d*|\.\d+))(?![0-9.*/])', '\1#'), '#', total_value.text)
    END
  FROM step,
  LATERAL (SELECT regexp_match(e, '(?:^|[-(+])(~?(?:\d+\.?\d*|\.\d+))([*/])(~?(?:\d+\.?\d*|\.\d+))'),
                  regexp_match(e, '(?:^|\()(~?(?:\d+\.?\d*|\.\d+))([-+])(~?(?:\d+\.?\d*|\.\d+))(?![0-9.*/])')) AS m (product, total),
  LATERAL (SELECT CASE
    WHEN product[2] = '*' THEN replace(round(replace(product[1], '~', '-')::numeric * replace(product[3], '~', '-')::numeric, 12)::text, '-', '~')
    WHEN replace(product[3], '~', '-')::numeric <> 0
    THEN replace(round(replace(product[1], '~', '-')::numeric / replace(product[3], '~', '-')::numeric, 12)::text, '-', '~')
    ELSE '' END) AS product_value (text),
  LATERAL (SELECT replace((replace(total[1], '~', '-')::numeric
    + CASE total[2] WHEN '-' THEN -1 ELSE 1 END * replace(total[3], '~', '-')::numeric)::text, '-', '~')) AS total_value (text)
  WHERE n < 400 AND e IS NOT NULL AND e !~ '^~?(\d+\.?\d*|\.\d+)$'
),
final AS (SELECT e FROM step ORDER BY n DESC LIMIT 1)
SELECT coalesce(e ~ '^~?(\d+\.?\d*|\.\d+)$', false) AS expression_valid,
       CASE WHEN e ~ '^~?(\d+\.?\d*|\.\d+)$' THEN round(replace(e, '~', '-')::numeric, 2)::text ELSE '' END AS result
FROM final
