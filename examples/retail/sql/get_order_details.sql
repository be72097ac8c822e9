SELECT o.order_id, o.user_id, o.status, o.address, o.fulfillments, o.payment_history, o.cancel_reason,
       o.return_items, o.return_payment_method_id, o.exchange_items, o.exchange_new_items,
       o.exchange_payment_method_id, o.exchange_price_difference_cents,
       (SELECT coalesce(jsonb_agg(item || jsonb_build_object('options', (
          SELECT coalesce(jsonb_agg(jsonb_build_object('name', key, 'value', value) ORDER BY key), '[]')
          FROM jsonb_each_text(item -> 'options'))) ORDER BY position), '[]')
        FROM jsonb_array_elements(o.items) WITH ORDINALITY AS i (item, position)) AS items
FROM retail.orders o WHERE o.order_id = $1::jsonb ->> 'order_id'
