"""What operators see of a running service: metrics, readiness, logs and traces."""
