-- What the sample marketplace asks its database in an hour: 100 requests a second at the peak, reads before writes.
-- For `dbscale indexes recommend postgres --from scripts/marketplace_workload.sql`; the tables are those of
-- scripts/marketplace.py. `calls` says how often each statement runs.

-- Sign in, and the start page.

-- calls: 18000
SELECT id, username, role, balance FROM users WHERE lower(email COLLATE "C") = lower('Ada.412@Example3.com' COLLATE "C");
-- calls: 60000
SELECT id, username, full_name, role, settings FROM users WHERE id = 4711;
-- calls: 18000
UPDATE users SET last_login = 1767082500 WHERE id = 4711;

-- Farms: found by place, by owner, by name.

-- calls: 24000
SELECT id, name, area_ha, organic FROM farms WHERE location = '전남 나주 12';
-- calls: 9000
SELECT id, name, latitude, longitude FROM farms WHERE location = '제주 서귀포 3';
-- calls: 3000
SELECT count(*) FROM farms WHERE location IN ('경북 상주 1', '경북 상주 2', '경북 상주 3');
-- calls: 30000
SELECT id, name, location, description FROM farms WHERE id = 1207;
-- calls: 12000
SELECT id, name, location FROM farms WHERE owner_id = 4713;
-- calls: 1500
SELECT f.id, f.name, u.username FROM farms f JOIN users u ON u.id = f.owner_id WHERE f.location = 'Yakima Valley 8';
-- calls: 9000
SELECT tag FROM farm_tags WHERE farm_id = 1207;
-- calls: 600
INSERT INTO farms (owner_id, name, location, area_ha) VALUES (4713, '새 농장', '전북 김제 7', 2.5);

-- Transactions: written all the time, read by farm, by number, and by time.

-- calls: 15000
INSERT INTO transactions (buyer_id, farm_id, crop_type, quantity, unit_price) VALUES (4711, 1207, 'apple', 3, 12500);
-- calls: 11000
UPDATE transactions SET status = 'paid', paid = true, paid_at = 1767082570000 WHERE id = 731904;
-- calls: 30000
SELECT id, crop_type, quantity, unit_price, status FROM transactions WHERE id = 731904;
-- calls: 12000
SELECT id, crop_type, quantity, unit_price FROM transactions WHERE farm_id = 1207 ORDER BY id DESC LIMIT 20;
-- calls: 6000
SELECT id, farm_id, quantity, unit_price FROM transactions WHERE buyer_id = 4711 AND NOT paid;
-- calls: 1200
SELECT id, farm_id, crop_type, quantity FROM transactions ORDER BY created_at DESC LIMIT 50;
-- calls: 240
SELECT count(*), sum(quantity * unit_price) FROM transactions
WHERE created_at >= '2025-12-29 00:00:00' AND created_at < '2025-12-30 00:00:00';
-- calls: 120
SELECT crop_type, sum(quantity) FROM transactions
WHERE created_at >= '2025-12-23 00:00:00' AND status = 'shipped' GROUP BY crop_type;
-- calls: 60
SELECT t.id, t.status, u.username FROM transactions t JOIN users u ON u.id = t.buyer_id
WHERE t.created_at >= '2025-12-30 06:00:00' AND t.status = 'pending' ORDER BY t.created_at;

-- Predictions: by farm, and over all farms by crop.

-- calls: 9000
SELECT harvest_date, predicted_yield, confidence FROM predictions WHERE farm_id = 1207 ORDER BY created_at DESC LIMIT 5;
-- calls: 3000
SELECT count(*) FROM predictions WHERE crop_type = 'strawberry';
-- calls: 1200
SELECT crop_type, count(*) FROM predictions GROUP BY crop_type;
-- calls: 600
SELECT avg(predicted_yield) FROM predictions WHERE crop_type = 'rice';
-- calls: 2000
INSERT INTO predictions (id, farm_id, crop_type, harvest_date, predicted_yield, confidence, created_at)
VALUES (900001, 1207, 'apple', '2026-09-20', 4210.5, 0.83, '2025-12-30 08:20:00+00');

-- Analyses: what a user asked before, and who has been asking.

-- calls: 24000
SELECT id, kind, question, created_at FROM analysis_history WHERE user_id = 4711 ORDER BY created_at DESC LIMIT 10;
-- calls: 3000
SELECT count(*) FROM analysis_history WHERE user_id = 4711 AND created_at >= '2025-12-29 00:00:00+00';
-- calls: 12
SELECT u.id, u.username, (SELECT max(h.created_at) FROM analysis_history h WHERE h.user_id = u.id) AS last_asked
FROM users u WHERE u.role = 'admin';
-- calls: 3000
SELECT id, kind, result FROM analysis_history WHERE prediction_id = 90210;
-- calls: 5000
INSERT INTO analysis_history (id, user_id, prediction_id, kind, question, created_at)
VALUES ('6f1b2a30-5c55-4c1b-9a53-0d8f4b6c7e21', 4711, 90210, 'yield', '올해 쌀 수확량은?', '2025-12-30 08:21:00+00');
