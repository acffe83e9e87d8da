from pathlib import Path
def test_smoke(configure, train_run):
    d = train_run(configure("pategan"))
    print((d / "metrics.jsonl").read_text(), (d/"plan.json").read_text(), list((d/"local").iterdir()))
    assert 0
