"""The comp-sum family on real images, and estimation errors against the H-consistency bound."""
