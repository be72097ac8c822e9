SELECT EXISTS (SELECT FROM retail.products p WHERE p.product_id = $1::jsonb ->> 'product_id') AS product_exists
