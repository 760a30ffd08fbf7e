"""Ready-made tasks on real data that ships inside packages, so that they run anywhere."""
