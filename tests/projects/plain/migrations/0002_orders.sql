CREATE TABLE orders (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  user_id bigint NOT NULL REFERENCES users,
  status text NOT NULL CHECK (status IN ('pending', 'paid')),
  total numeric(10,2) NOT NULL
);

CREATE FUNCTION paid(orders) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$ SELECT $1.status = 'paid' $$;

-- down
DROP FUNCTION paid(orders);
DROP TABLE orders;
