SELECT true AS noted WHERE jsonb_typeof($1::jsonb -> 'thought') = 'string'
