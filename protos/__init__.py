"""The contract: ``paretopress/v1/*.proto``. `protos.generate` turns it into the stubs of `paretopress.v1`."""
