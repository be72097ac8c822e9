-- The hand-over is the ledger's own record of this call; the shop's data does not change.
SELECT true AS transferred WHERE jsonb_typeof($1::jsonb -> 'summary') = 'string'
