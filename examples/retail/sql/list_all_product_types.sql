SELECT name, product_id FROM retail.products ORDER BY name COLLATE "C"
