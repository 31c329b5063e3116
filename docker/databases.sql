-- Optuna's tables and MLflow's both bring an `alembic_version`: one database each.
CREATE DATABASE studies;
