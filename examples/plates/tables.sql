-- The cloud's side of it. id says what was seen: the same photo of the same camera is the same row.
CREATE DATABASE IF NOT EXISTS plates;
CREATE TABLE IF NOT EXISTS plates.plates (
    id CHAR(32) CHARACTER SET ascii PRIMARY KEY,
    taken DATETIME(3) NOT NULL,
    camera VARCHAR(64) CHARACTER SET utf8mb4 NOT NULL,
    plate VARCHAR(16) CHARACTER SET ascii NOT NULL,
    confidence FLOAT NOT NULL,
    region VARCHAR(16) CHARACTER SET ascii NOT NULL,
    site VARCHAR(32) CHARACTER SET utf8mb4 NOT NULL,
    INDEX (plate, taken)
);
CREATE USER IF NOT EXISTS plates@'%' IDENTIFIED BY 'PASSWORD' REQUIRE SSL;
GRANT INSERT ON plates.plates TO plates@'%';
