"""The only place where protos become domain types, and domain types protos: one file per noun."""
