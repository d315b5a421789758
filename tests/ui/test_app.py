import sys

import gradio as gr
import pytest

import app


def test_flags_have_safe_defaults(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["app.py"])
    flags = app.parse_flags()
    assert (flags.model, flags.host, flags.port, flags.share) == (None, None, None, False)
    assert flags.device == "auto"


def test_a_mistyped_flag_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["app.py", "--modle", "x"])
    with pytest.raises(SystemExit):
        app.parse_flags()
    assert "--modle" in capsys.readouterr().err


def test_main_loads_the_default_model_and_serves_it(monkeypatch, shelf):
    served = {}
    monkeypatch.setattr(sys, "argv", ["app.py", "--port", "7999"])
    monkeypatch.setattr(app, "available_models", lambda extra: shelf.specs)
    monkeypatch.setattr(app, "load_model", lambda spec, device: shelf.get(spec.key))
    monkeypatch.setattr(gr.Blocks, "launch", lambda demo, **settings: served.update(settings))
    app.main()
    assert served["server_port"] == 7999
    assert served["share"] is False
    assert served["show_error"] is False
    assert served["allowed_paths"] == []
    assert served["run_history"] is False


def test_the_app_stays_a_page_of_code():
    with open(app.__file__, encoding="utf-8") as source:
        assert len(source.readlines()) <= 50
