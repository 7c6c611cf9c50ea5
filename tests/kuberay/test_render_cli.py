"""python -m kuberay render and check, as a person types them."""

import yaml

from kuberay.__main__ import main


def test_render_prints_a_cluster_or_a_job(capsys):
    assert main(["render", "--profile", "standard"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["kind"] == "RayCluster"
    assert main(["render", "--profile", "small", "--entrypoint", "python -m work --input s3://b/c"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["spec"]["entrypoint"] == "python -m work --input s3://b/c"


def test_render_reads_a_spec_file(tmp_path, capsys):
    path = tmp_path / "cluster.yaml"
    path.write_text("image: ray:1\nhead: {cpu: 1, memory: 4Gi}\n")
    assert main(["render", "--spec", str(path), "--name", "mine", "--namespace", "speech"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["metadata"]["name"] == "mine"


def test_a_mistake_is_one_line_and_status_2(tmp_path, capsys):
    path = tmp_path / "cluster.yaml"
    path.write_text("image: ray:1\nhead: {cpu: 1, memory: 4Gi}\nauthz: token\n")
    assert main(["render", "--spec", str(path)]) == 2
    assert capsys.readouterr().err == f"{path}: unknown key authz\n"


def test_check_takes_what_render_prints_and_refuses_what_the_controller_would(tmp_path, capsys):
    main(["render", "--profile", "large"])
    path = tmp_path / "ray.yaml"
    path.write_text(capsys.readouterr().out)
    assert main(["check", str(path)]) == 0
    path.write_text(path.read_text().replace("2.60.0", "2.40.0"))
    assert main(["check", str(path)]) == 1
    assert "token authentication needs rayVersion 2.52" in capsys.readouterr().out
