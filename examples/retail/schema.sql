-- The retail workload's target: what the shop itself keeps. All amounts are integer cents.
-- `pristine` holds the data as it was loaded, so that each task can start from it.
CREATE SCHEMA retail;
CREATE SCHEMA pristine;

CREATE TABLE retail.products (
  product_id text PRIMARY KEY,
  name text NOT NULL
);

CREATE TABLE retail.variants (
  item_id text PRIMARY KEY,
  product_id text NOT NULL REFERENCES retail.products,
  options jsonb NOT NULL,
  available boolean NOT NULL,
  price_cents bigint NOT NULL CHECK (price_cents >= 0)
);

-- payment_methods: {id: {"id", "source", "brand"?, "last_four"?, "balance_cents"?}}; gift cards have a balance.
-- version: raised by every write, so that an undo can tell whether somebody wrote after it.
-- Customers are found in capitals or not: the collation (PostgreSQL 17) makes that so for every letter, whatever the
-- database's locale.
CREATE TABLE retail.users (
  user_id text PRIMARY KEY,
  first_name text COLLATE "pg_c_utf8" NOT NULL,
  last_name text COLLATE "pg_c_utf8" NOT NULL,
  email text COLLATE "pg_c_utf8" NOT NULL,
  address jsonb NOT NULL,
  payment_methods jsonb NOT NULL,
  orders jsonb NOT NULL,
  version integer NOT NULL DEFAULT 0,
  CONSTRAINT no_gift_card_below_zero CHECK (NOT jsonb_path_exists(payment_methods, '$.*.balance_cents ? (@ < 0)'))
);
CREATE INDEX users_by_email ON retail.users (lower(email));
CREATE INDEX users_by_name ON retail.users (lower(last_name), lower(first_name));

-- items: [{"name", "product_id", "item_id", "price_cents", "options"}]
-- payment_history: [{"transaction_type", "amount_cents", "payment_method_id"}]
CREATE TABLE retail.orders (
  order_id text PRIMARY KEY,
  user_id text NOT NULL REFERENCES retail.users,
  address jsonb NOT NULL,
  items jsonb NOT NULL,
  fulfillments jsonb NOT NULL,
  status text NOT NULL,
  payment_history jsonb NOT NULL,
  cancel_reason text,
  return_items jsonb,
  return_payment_method_id text,
  exchange_items jsonb,
  exchange_new_items jsonb,
  exchange_payment_method_id text,
  exchange_price_difference_cents bigint,
  version integer NOT NULL DEFAULT 0
);

CREATE TABLE pristine.users (LIKE retail.users INCLUDING ALL);
CREATE TABLE pristine.orders (LIKE retail.orders INCLUDING ALL);
