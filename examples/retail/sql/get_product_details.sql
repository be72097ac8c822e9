SELECT p.product_id, p.name,
       jsonb_agg(jsonb_build_object('item_id', v.item_id, 'options', (
         SELECT jsonb_agg(jsonb_build_object('name', key, 'value', value) ORDER BY key) FROM jsonb_each_text(v.options)),
         'available', v.available,
                                    'price_cents', v.price_cents) ORDER BY v.item_id) AS variants
FROM retail.products p JOIN retail.variants v USING (product_id)
WHERE p.product_id = $1::jsonb ->> 'product_id'
GROUP BY p.product_id, p.name
