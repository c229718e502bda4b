"""What adapters share whose trainer is transformers' `Trainer` underneath: TRL and ms-swift."""
