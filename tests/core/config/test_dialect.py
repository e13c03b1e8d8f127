"""What a config file may say, and what it means: the dialect of MMDetection 3.x."""
import textwrap

import pytest

from detcore.config import Config
from detcore.errors import ConfigError


def read(source, **options):
    return Config.fromstring(textwrap.dedent(source), ".py", **options).to_dict()


@pytest.fixture
def files(tmp_path):
    """Write files, ``a_py`` as ``a.py``, and read the last one."""

    def write(sources=None, cfg_options=None, **named):
        for name, source in {**(sources or {}), **named}.items():
            path = tmp_path / (name if "." in name else ".".join(name.rsplit("_", 1)))
            path.parent.mkdir(exist_ok=True)
            path.write_text(textwrap.dedent(source), encoding="utf-8")
        return Config.fromfile(path, cfg_options=cfg_options)

    return write


EXPRESSIONS = {
    "-3 + 2 * 5 // 2 - 7 % 4": -3 + 2 * 5 // 2 - 7 % 4,
    "2 ** 10 / 4": 256.0,
    "1 / 9": 1 / 9,
    "not 1 < 2 <= 2 != 3": False,
    "[1, *range(2, 4), *(5,)]": [1, 2, 3, 5],
    "(1,)": (1,),
    "dict(a=1, **dict(b=2))": {"a": 1, "b": 2},
    "{'a': 1, **{'b': 2}, 3: 4}": {"a": 1, "b": 2, 3: 4},
    "{1, 2} | {3}": {1, 2, 3},
    "[i * j for i in range(3) if i for j in (1, 10) if j > i]": [10, 20],
    "{k: v for k, v in zip('ab', [1, 2])}": {"a": 1, "b": 2},
    "{c for c in 'aab'}": {"a", "b"},
    "sum(i for i in range(4))": 6,
    "sum([[1], [2]], [])": [1, 2],
    "[(i, c) for i, c in enumerate('ab', 1)]": [(1, "a"), (2, "b")],
    "[a + b for a, (b, *_) in [(1, (2, 3, 4))]]": [3],
    "f'{1.5:.2f}-{\"x\"!r:>5}-{[1]}-{2:03d}'": "1.50-  'x'-[1]-002",
    "'{} {b} {0:>4}'.format(1, b='x')": "1 x    1",
    "'%s_%02d' % ('a', 3)": "a_03",
    "'%(a)s' % dict(a=1)": "1",
    "'a,b'.split(',')": ["a", "b"],
    "'-'.join(['a', 'b']).upper().replace('A', 'x')": "x-B",
    "'abc'[1:] + 'abc'[-1] + 'abcdef'[::2]": "bccace",
    "[1, 2, 3][-2:]": [2, 3],
    "dict(a=[dict(b=1)]).a[0].b": 1,
    "dict(a=1).get('b', 2)": 2,
    "sorted([3, 1, 2], reverse=True)": [3, 2, 1],
    "list(map(str, range(2)))": ["0", "1"],
    "min(3, 1) + max([1, 5]) + abs(-1) + round(2.567, 1)": 9.6,
    "len({'a': 1}) if True and 0 else 'no' or 1": "no",
    "int('12') + float('0.5') + bool([])": 12.5,
    "1 if [] else None": None,
    "tuple(reversed((1, 2)))": (2, 1),
    "'b' in 'abc' and 2 not in [1] and None is None": True,
    "range(3)": range(3),
    "any([0, 1]) + all([])": 2,
    "0x10 + 0b11 + 1_000": 1019,
    "'a' 'b'": "ab",
    "1 << 4 | 1 ^ 3 & 2": 1 << 4 | 1 ^ 3 & 2,
    "~1": -2,
    "divmod(7, 2)": (3, 1),
    "'%d%%' % 5": "5%",
    "list(dict(a=1).items())": [("a", 1)],
}


@pytest.mark.parametrize("source", EXPRESSIONS)
def test_an_expression_means_what_it_means_in_python(source):
    value = read(f"x = {source}")["x"]
    assert value == EXPRESSIONS[source]
    assert type(value) is type(EXPRESSIONS[source])


def test_statements():
    config = read(
        """
        '''A docstring.'''
        classes: tuple = ('cat', 'dog')
        a = b = [1]
        a += [2]
        first, *rest = classes
        pipeline = []
        for i, name in enumerate(classes):
            if name == 'dog':
                pipeline.append(dict(type=name, index=i))
            elif False:
                pass
            else:
                continue
        for i in range(9):
            if i == 3:
                break
        else:
            i = 'never'
        d = dict(x=dict(y=1), drop=1)
        d['x']['z'] = 2
        d.x.y += 10
        del d['drop'], first
        d.update(new=[3])
        pipeline[0]['prob'] = 0.5
        pipeline[1:] = [dict(type='last')]
        """
    )
    assert config == {
        "classes": ("cat", "dog"),
        "a": [1, 2],
        "b": [1, 2],
        "rest": ["dog"],
        "pipeline": [{"type": "dog", "index": 1, "prob": 0.5}, {"type": "last"}],
        "i": 3,
        "name": "dog",
        "d": {"x": {"y": 11, "z": 2}, "new": [3]},
    }


def test_names_between_double_underscores_stay_out_and_others_in():
    assert read("__hidden = 1\n_single = __hidden + 1") == {"_single": 2}


def test_variables_of_comprehensions_stay_within():
    assert read("i = 'kept'\nx = [i for i in range(2)]") == {"i": "kept", "x": [0, 1]}


def test_bases_merge_key_by_key_and_lists_are_replaced(files):
    config = files(
        base_py="model = dict(type='A', neck=dict(c=[1, 2], k=1))\nx = 1",
        other_yaml="train: {lr: 1e-3, steps: [1, 2]}",
        child_py="""
        _base_ = ['./base.py', 'other.yaml']
        model = dict(neck=dict(c=[3]), new=2)
        train = dict(lr=2)
        """,
    )
    assert config.to_dict() == {
        "model": {"type": "A", "neck": {"c": [3], "k": 1}, "new": 2},
        "x": 1,
        "train": {"lr": 2, "steps": [1, 2]},
    }


def test_delete_replaces_the_base_at_any_level(files):
    config = files(
        base_py="model = dict(type='A', neck=dict(type='N', c=1))\nopt = dict(a=1)",
        child_py="""
        _base_ = 'base.py'
        model = dict(neck=dict(_delete_=True, type='M'))
        opt = dict(_delete_=False, b=2)
        """,
    )
    assert config.model == {"type": "A", "neck": {"type": "M"}}
    assert config.opt == {"a": 1, "b": 2}


def test_delete_with_a_shared_dict_holds_for_each_name(files):
    config = files(
        base_py="val = dict(a=1)\ntest = dict(a=1)",
        child_py="_base_ = 'base.py'\nval = dict(_delete_=True, b=2)\ntest = val",
    )
    assert config.val == config.test == {"b": 2}


def test_a_dict_over_something_else_is_an_error_with_its_place(files):
    base, child = "model = dict(neck=[1])", "_base_ = 'base.py'\nmodel = dict(\n    neck=dict(a=1))"
    message = r"child\.py:3: model\.neck is a dict here but a list in the base.*_delete_"
    with pytest.raises(ConfigError, match=message):
        files(base_py=base, child_py=child)


def test_two_bases_may_not_set_the_same_key(files):
    with pytest.raises(ConfigError, match=r"child\.py:2: two bases set the same key 'x'.*a\.py.*b\.py"):
        files(a_py="x = 1", b_py="x = 1", child_py="\n_base_ = ['a.py', 'b.py']")


def test_base_values_can_be_used_and_changed(files):
    config = files(
        base_py="model = dict(type='A', neck=dict(c=1), extra=1)\npipeline = [dict(type='Load')]\ndrop = 1",
        child_py="""
        _base_ = './base.py'
        detector = _base_.model
        detector.pop('extra')
        detector.pop('never_there')
        detector.neck.update(dict(k=dict(z=1)))
        detector['init'] = None
        del _base_.model
        del _base_['drop']
        _base_.pipeline[0].type = 'Other'
        model = dict(type='Outer', detector=detector)
        size = {{_base_.model.neck.c}} if False else 5
        """.replace("{{_base_.model.neck.c}}", "0"),
    )
    assert config.to_dict() == {
        "pipeline": [{"type": "Other"}],
        "detector": {"type": "A", "neck": {"c": 1, "k": {"z": 1}}, "init": None},
        "model": {"type": "Outer", "detector": {"type": "A", "neck": {"c": 1, "k": {"z": 1}}, "init": None}},
        "size": 5,
    }
    assert config.model.detector is not config.detector


def test_an_update_of_a_base_value_merges_and_of_an_own_dict_replaces(files):
    config = files(
        base_py="a = dict(x=dict(y=1, z=2))",
        child_py="""
        _base_ = 'base.py'
        _base_.a.update(x=dict(y=5))
        b = dict(x=dict(y=1, z=2))
        b.update(x=dict(y=5))
        """,
    )
    assert config.a == {"x": {"y": 5, "z": 2}}
    assert config.b == {"x": {"y": 5}}


def test_placeholders_of_the_base_keep_their_type_alone_and_are_text_within(files):
    config = files(
        base_py="num = 80\nneck = dict(c=[1])\npath = 'a/'",
        child_py="""
        _base_ = './base.py'
        bare = {{_base_.num}}
        spaced = {{ _base_.neck.c }}
        whole = '{{_base_.neck}}'
        within = 'n{{_base_.num}}{{ _base_.path }}'
        nested = [dict(x='{{_base_.neck.c}}')]
        """,
    )
    assert config.bare == 80
    assert config.spaced == [1]
    assert config.whole == {"c": [1]}
    assert config.within == "n80a/"
    assert config.nested == [{"x": [1]}]
    config.whole.c.append(2)
    assert config.neck.c == config.spaced == [1]


@pytest.mark.parametrize("suffix", ["yaml", "json"])
def test_placeholders_in_markup(files, suffix, monkeypatch):
    monkeypatch.setenv("DETCORE_TEST_N", "3")
    text = """{"_base_": "base.py", "a": {{_base_.num}},
      "b": "x{{_base_.num}}", "c": [{{$DETCORE_TEST_N:1}}, "{{ fileBasename }}"]}"""
    config = files(base_py="num = 80", **{f"child_{suffix}": text})
    assert config.to_dict() == {"num": 80, "a": 80, "b": "x80", "c": [3, f"child.{suffix}"]}


def test_block_yaml_with_bare_placeholders(files):
    config = files(
        base_py="num = 80",
        child_yaml="_base_: [base.py]\na: {{_base_.num}}  # eighty\nb:\n  - {{ _base_.num }}\n  - 'it''s'\n",
    )
    assert config.a == 80
    assert config.b == [80, "it's"]


def test_the_names_of_the_file(files):
    text = "x = '{{ fileDirname }}|{{fileBasename}}|{{ fileBasenameNoExtension }}|{{ fileExtname }}'"
    config = files({"sub/my.py": text})
    folder, *rest = config.x.split("|")
    assert folder.endswith("/sub")
    assert rest == ["my.py", "my", ".py"]


def test_a_base_may_be_named_with_the_folder_of_the_file(files):
    assert files(base_py="x = 1", child_py="_base_ = '{{ fileDirname }}/base.py'").x == 1


def test_environment_variables(files, monkeypatch):
    monkeypatch.setenv("DETCORE_TEST_ROOT", "/data")
    monkeypatch.setenv("DETCORE_TEST_NUM", "12")
    monkeypatch.delenv("DETCORE_TEST_UNSET", raising=False)
    config = files(
        a_py="""
        root = '{{$DETCORE_TEST_ROOT:/default}}/images'
        default = '{{ $DETCORE_TEST_UNSET:/default }}/images'
        number = {{$DETCORE_TEST_NUM:80}}  # not {{$DETCORE_TEST_NUM:80}} here
        quoted = {{'$DETCORE_TEST_NUM:80'}}
        text = {{$DETCORE_TEST_ROOT:x}}
        flag = {{$DETCORE_TEST_UNSET:True}}
        """
    )
    assert config.to_dict() == {
        "root": "/data/images",
        "default": "/default/images",
        "number": 12,
        "quoted": 12,
        "text": "/data",
        "flag": True,
    }
    assert config.env_variables == {"DETCORE_TEST_ROOT": "/data", "DETCORE_TEST_NUM": "12"}


@pytest.mark.parametrize("name", ["AWS_SECRET_ACCESS_KEY", "GITHUB_TOKEN", "DB_PASSWORD", "WANDB_API_KEY"])
def test_a_secret_is_not_put_into_an_untrusted_config(files, monkeypatch, name):
    monkeypatch.setenv(name, "hush")
    text = f"\nload_from = 'https://elsewhere.example/{{{{${name}:none}}}}'"
    with pytest.raises(ConfigError, match=f"a.py:2: {name} looks like a secret") as caught:
        files(a_py=text)
    assert "hush" not in str(caught.value)
    assert Config.fromstring(text, trust=True).load_from.endswith("/hush")


def test_references_to_keys_see_the_final_values(files):
    config = files(
        base_py="data_root = 'data/coco/'\nann = '${data_root}train.json'\nn = dict(classes=[1, 2])",
        child_py="""
        _base_ = './base.py'
        data_root = 'mine/'
        head = dict(c='${n.classes}', one='${n.classes.1}', text='n${n.classes.0}')
        chain, raw = '${ann}', '$${ann}'
        """,
        cfg_options={"data_root": "other/"},
    )
    assert config.ann == "other/train.json"
    assert config.head == {"c": [1, 2], "one": 2, "text": "n1"}
    assert (config.chain, config.raw) == ("other/train.json", "${ann}")


def test_a_reference_to_nothing_says_where_and_what_is_there(files):
    message = r"a\.py:3: \$\{data_rot\}: the config has no key 'data_rot'; .*'data_root'"
    with pytest.raises(ConfigError, match=message):
        files(a_py="data_root = ''\nx = dict(\n    path='${data_rot}')")


def test_no_two_parts_of_a_config_are_one_object(files):
    text = "val = dict(dataset=dict(pipeline=[dict(type='Load')]))\ntest = val\nd = val['dataset']"
    config = files(a_py=text)
    config.test.dataset.pipeline[0].type = "Changed"
    assert config.val.dataset.pipeline[0].type == "Load"
    assert config.d.pipeline[0].type == "Load"


def test_bases_are_relative_to_the_file_that_names_them(files):
    config = files(
        {
            "_base_/x.py": "x = 1",
            "method/a.py": "_base_ = '../_base_/x.py'",
            "method/b.py": "_base_ = './a.py'\ny = 2",
        }
    )
    assert config.to_dict() == {"x": 1, "y": 2}


def test_the_project_is_bounded_by_version_control_and_base_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path.parent)
    configs = tmp_path / "repo/configs/deep"
    configs.mkdir(parents=True)
    (tmp_path / "repo/common.py").write_text("x = 1")
    (configs / "a.py").write_text("_base_ = '../../common.py'")
    (tmp_path / "repo/.git").mkdir()
    assert Config.fromfile(configs / "a.py").x == 1
    (tmp_path / "repo/.git").rmdir()
    monkeypatch.chdir("/")
    with pytest.raises(ConfigError, match=r"a\.py:1: .*leads out of the config's project"):
        Config.fromfile(configs / "a.py")
    (tmp_path / "repo/_base_").mkdir()
    assert Config.fromfile(configs / "a.py").x == 1
    assert Config.fromfile(configs / "a.py", trust=True).x == 1


def test_a_shipped_config_is_a_base_by_its_name(files):
    config = files(mine_py="_base_ = 'detcore::retinanet/retinanet_r18_fpn_1x_coco.py'\nload_from = 'x.pth'")
    assert config.model.backbone.depth == 18
    assert config.load_from == "x.pth"
    assert "_scope_" not in config.model
    with pytest.raises(ConfigError, match=r"mine\.py:1: .*_coc.py is not there.*did you mean"):
        files(mine_py="_base_ = 'detcore::retinanet/retinanet_r18_fpn_1x_coc.py'")


def test_bases_of_other_packages_bring_their_scope(files, tmp_path, monkeypatch):
    configs = tmp_path / "site/strangers/.mim/configs/sub"
    configs.mkdir(parents=True)
    (configs.parents[2] / "__init__.py").write_text("raise RuntimeError('nobody imports this')")
    (configs / "x.py").write_text("_base_ = '../y.py'\nmodel = dict(type='A', neck=dict(type='B'))")
    (configs.parent / "y.py").write_text("loops = [dict(type='C'), dict(x=dict(type='D', _scope_='own'))]")
    monkeypatch.syspath_prepend(tmp_path / "site")
    config = files(mine_py="_base_ = 'strangers::sub/x.py'\nmodel = dict(neck=dict(c=1))")
    assert config.model == {"type": "A", "_scope_": "strangers", "neck": {"type": "B", "c": 1}}
    assert config.loops == [{"type": "C", "_scope_": "strangers"}, {"x": {"type": "D", "_scope_": "own"}}]


def test_every_key_remembers_file_and_line(files):
    from detcore.config.document import origins_of

    config = files(
        base_py="model = dict(\n    type='A',\n    neck=dict(c=1))\nx = 1",
        child_py="_base_ = 'base.py'\nmodel = dict(\n    neck=dict(\n        k=2))\n_base_.x = 5",
    )

    def places(part):
        return {key: (file.rpartition("/")[2], line) for key, (file, line) in origins_of(part).items()}

    assert places(config.model) == {"type": ("base.py", 2), "neck": ("child.py", 3)}
    assert places(config.model.neck) == {"c": ("base.py", 3), "k": ("child.py", 4)}
    config.merge_from_dict({"model.neck.c": 9})
    assert origins_of(config.model.neck)["c"] == ("--cfg-options", 0)


def test_an_error_names_file_line_and_text(files):
    with pytest.raises(ConfigError, match=r"a\.py:3: .*not defined above; did you mean 'norm_cfg'\?$"):
        files(a_py="norm_cfg = dict()\nx = dict(\n    y=norm_cgf)")
    with pytest.raises(ConfigError, match=r"a\.py:2: division by zero: 1 / \(n - n\)$"):
        files(a_py="n = 1\nx = 1 / (n - n)")


def test_an_error_in_a_base_names_the_base(files):
    with pytest.raises(ConfigError, match=r"base\.py:2: calling open is not allowed"):
        files(base_py="\nx = open('y')", child_py="_base_ = 'base.py'")


def test_a_missing_base_names_the_closest_file(files):
    with pytest.raises(ConfigError, match=r"child\.py:1: .*bse\.py is not there.*did you mean 'base\.py'"):
        files(base_py="", child_py="_base_ = 'bse.py'")


def test_a_file_with_byte_order_mark_and_windows_lines_reads(tmp_path):
    path = tmp_path / "a.py"
    path.write_bytes(b"\xef\xbb\xbfx = 1\r\ny = 'caf\xc3\xa9'\r\n")
    assert Config.fromfile(path).to_dict() == {"x": 1, "y": "café"}
