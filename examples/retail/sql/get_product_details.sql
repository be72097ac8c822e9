SELECT p.product_id, p.name,
       (SELECT coalesce(jsonb_agg(jsonb_build_object('item_id', v.item_id, 'options', (
          SELECT coalesce(jsonb_agg(jsonb_build_object('name', key, 'value', value) ORDER BY key), '[]')
          FROM jsonb_each_text(v.options)),
          'available', v.available, 'price_cents', v.price_cents) ORDER BY v.item_id), '[]')
        FROM retail.variants v WHERE v.product_id = p.product_id) AS variants
FROM retail.products p WHERE p.product_id = $1::jsonb ->> 'product_id'
