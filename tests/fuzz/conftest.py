collect_ignore = ["fuzz_secagg.py"]  # importing it needs atheris; tests/secagg/test_secagg_fuzz.py runs it
