"""Steps of lifting an exported program: regions, in-place writes, constants, norms, parallel branches."""
