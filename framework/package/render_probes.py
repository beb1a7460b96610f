# Renders conversations with a Jinja chat template, the way model publishers' own library does: sandboxed, with
# trim_blocks and lstrip_blocks, tojson without HTML escapes, raise_exception.
# There is no strftime_now: a rendering depends on the conversation alone, so templates take their fixed date.
# stdin: {"template", "bos_token", "eos_token", "probes": [variables, ...]}   stdout: {"renders": [text or {"refused": why}]}
import json
import resource
import sys

SECONDS, BYTES = 60, 2 << 30
resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))

try:
    from jinja2.exceptions import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment
except ImportError:
    json.dump({"missing": "jinja2"}, sys.stdout)
    sys.exit(0)


def raise_exception(message):
    raise TemplateError(message)


def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def render(template, variables):
    try:
        return template.render(**variables)
    except Exception as error:  # whatever a template does wrong, it does for this conversation only
        return {"refused": f"{type(error).__name__}: {error}"[:200]}


def main():
    task = json.load(sys.stdin)
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    try:
        template = environment.from_string(task["template"])
    except TemplateError as error:
        json.dump({"broken": f"line {getattr(error, 'lineno', '?')}: {error}"[:200]}, sys.stdout)
        return
    common = {"bos_token": task["bos_token"], "eos_token": task["eos_token"], "tools": None, "documents": None}
    json.dump({"renders": [render(template, {**common, **probe}) for probe in task["probes"]]}, sys.stdout)


main()
