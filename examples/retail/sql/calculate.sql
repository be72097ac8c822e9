-- Arithmetic as a jsonpath: PostgreSQL parses and computes it, and nothing in it can name a row or a function. Its
-- words are not let in, nor what signs alone can spell: comments (/*) and wildcards (a dot that is no number's own).
-- Leading zeros are dropped where the reference reads them: 007.5 and 00, not 007.
-- MATERIALIZED, or the planner would cast a constant before anybody asked whether it is valid.
WITH input AS MATERIALIZED (
  SELECT given, regexp_replace(given, '(?<![0-9.])0+(?=[0-9]+[.]|0(?![0-9]))', '', 'g') AS path
  FROM (SELECT $1::jsonb ->> 'expression') AS arg (given)
),
answer AS (
  SELECT CASE WHEN given ~ '^[-0-9+*/(). ]+$' AND given !~ '/[*]|[.][0-9]*[.]|(^|[^0-9])[.]([^0-9]|$)'
                   AND pg_input_is_valid(path, 'jsonpath')
              THEN jsonb_path_query_first('null', path::jsonpath, silent => true) END AS value
  FROM input
)
SELECT value IS NOT NULL AS expression_valid, coalesce(round(value::numeric, 2)::text, '') AS result
FROM answer
