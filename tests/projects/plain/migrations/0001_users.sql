CREATE TYPE role AS ENUM ('buyer', 'farmer');

CREATE TABLE users (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  email text NOT NULL UNIQUE CHECK (email LIKE '%_-_%'),
  role role NOT NULL DEFAULT 'buyer',
  created_at timestamptz NOT NULL DEFAULT now()
);

-- down
DROP TABLE users;
DROP TYPE role;
