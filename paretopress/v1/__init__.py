"""Generated from ``protos/paretopress/v1`` by ``make proto``; do not edit."""
