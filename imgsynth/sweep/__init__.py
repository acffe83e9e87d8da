"""Many runs over ε, models and cohorts: planned and paid for as a whole, and shown in one table and figure."""
