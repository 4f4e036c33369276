"""Passwords in settings of every form, and lines of real settings that have none."""

from __future__ import annotations

import stat

import pytest

from kiosk.audit.sample import Sample
from kiosk.audit.settings import is_configuration
from kiosk.audit.words import words
from kiosk.disk.volume import Node

FOUND = [
    # XML
    "<password>hunter22</password>",
    '<db:Password enc="no">\n  hunter22\n</db:Password>',
    "<password><![CDATA[hunter22]]></password>",
    '<server user="jobs" password="hunter22"/>',
    '<property name="db.password" value="hunter22"/>',
    "<name>fs.password</name>\n <value>hunter22</value>",
    "<key>password</key><string>hunter22</string>",
    '<entry key="db.password">hunter22</entry>',
    # several on a line
    '{"user":"a","password":"hunter22"}',
    '{"a": 1, "db": {"user": "u", "passwd" : "hunter22"}}',
    '{"user":"a","password":12345678}',
    "{user: a, password: hunter22}",
    '  - {name: u, password: "hunter22"}',
    "//nas/x /mnt cifs username=u,password=hunter22 0 0",
    "mysql -u root --password=hunter22 jobs",
    "Server=db;Uid=u;Pwd=hunter22;",
    "jdbc:mysql://h/db?user=u&password=hunter22",
    "user=a pass=hunter22",
    "Environment=DB_PASS=hunter22",
    'Environment="DB_PASSWORD=hunter22"',
    # keys
    "db_pass=hunter22",
    "DBPASS=hunter22",
    "pwd = hunter22",
    "passwd=hunter22",
    "MYSQL_PWD=hunter22",
    "export PGPASSWORD=hunter22",
    "secret_key: hunter22",
    "SECRET_KEY_BASE=abcdef0123",
    # SNMP
    "rocommunity hunter22",
    "rwcommunity private 10.0.0.0/8",
    "com2sec ro default hunter22",
    "com2sec -Cn ctx ro default hunter22",
    "trapsink host hunter22",
    # values that begin as references do
    "password=$ecr3t!",
    'password="$ecr3t!"',
    "password=@bc1234",
    "password = &bc1234",
    "password: %bc1234",
    "password=/bc1234",
    "password={bc1234",
    '{"password":"@bc1234"}',
    "pw={noop}hunter22",
]
NOTHING = [
    "password=$DB_PASSWORD",
    "password=${X}",
    "password=$(cat /x)",
    "password=`cat x`",
    "password=%{x}",
    "password=%(pw)s",
    "password={{ x }}",
    "password: {{pw}}",
    "password=<placeholder>",
    "password=file:/x",
    "password=env:X",
    "password=vault:x",
    "password: !vault |",
    "password=@PASSWORD@",
    "password=&pw;",
    "password=/etc/x/pw",
    "password={cipher}abcdef",
    "token_endpoint=https://login.example.org/token",
    "<password>${db.pw}</password>",
    "<password></password>",
    "<password/>",
    "<passwordPolicy>strict</passwordPolicy>",
    "<prompt>Enter the password: now please</prompt>",
    '{"user":"a","password":""}',
    '{"password":null}',
    '{"password_file":"/run/x/y"}',
    '"password": "%s"',
    "PWD=/home/x",
    'pwd="$(pwd)"',
    "bypass=enabled",
    "pass: yes",
    "PASS_MAX_DAYS=99999",
    "rocommunity public default",
    "#rwcommunity secret 10.0.0.1",
    "com2sec notConfigUser default public",
    "# db_pass=hunter22",
    "enabled: true # password: hunter22",
    'echo "password=$pw"',
    '[ "$password" = "hunter" ]',
    "passwd:  files systemd",
    "Type: password",
    "password [success=1 default=ignore] pam_unix.so",
    "[success=end new_authtok_reqd=done default=ignore]\tpam_unix.so",
    'DEFAULT_PASSWORD_TYPE="sha512"',
    "tokens: {a: b}",
    '{"mariadb-plugin-cracklib-password-check": "10.11.14"}',
]
LITERALS = {
    "/srv/site/settings.py": (
        [
            "SECRET_KEY = 'django-insecure-a(b#c$1x'",
            "DATABASES = {'default': {'USER': 'u', 'PASSWORD': 'hunter22'}}",
            "    'PASSWORD': 'hunter22',",
            'password: str = "hunter22"',
            'pw=b"hunter22"',
            'c = connect(user="u", password="hunter22")',
            'os.environ["DB_PASSWORD"] = "hunter22"',
            'os.environ.get("DB_PASSWORD", "hunter22")',
            'API_TOKEN = "abcd1234efgh"',
        ],
        [
            "password = get_password()",
            "password=None",
            "def f(password: str = '') -> None:",
            'password = os.environ["DB_PASSWORD"]',
            'getpass("Password: ")',
            'if password == "hunter22":',
            'password = "Enter the password"',
            'fields = ("password", "username")',
            'PASSWORD_FIELD = "user_password"',
            '# password = "hunter22"',
            '>>> connect(password="hunter22")',
            'p.add_argument("--password", "-p")',
            'password = f"{x}"',
            'password="%s" % x',
            'TOKEN_START = "begin"',
            'x["password"] = y["password"]',
            'raise E("no password: %s")',
            "secret = secrets.token_hex(32)",
        ],
    ),
    "/var/www/html/wp-config.php": (
        [
            "define( 'DB_PASSWORD', 'hunter22' );",
            "define('AUTH_KEY', 'k|2 aQ!9zL#m4$ xW7^pT0&vB8*nC6(eR1)yU5_iO3+')",
            "$db['password'] = 'hunter22';",
            "$dbpass = 'hunter22';",
            "'password' => 'hunter22',",
        ],
        [
            "define('DB_PASSWORD', getenv('DB_PASSWORD'));",
            "define('AUTH_KEY', 'put your unique phrase here');",
            "$password = $_POST['password'];",
            "'password' => env('DB_PASSWORD', ''),",
        ],
    ),
    "/etc/app/x.rb": (
        ["config.password = 'hunter22'", ":password => 'hunter22'", "password: 'hunter22'"],
        ["password: ENV['PW']", 'password: "#{pw}"'],
    ),
    "/usr/local/etc/x.lua": (
        ["local password = 'hunter22'", 'password="hunter22",'],
        ["password = nil", "local pw = io.read()"],
    ),
    "/data/x.js": (
        ["const apiKey = 'hunter22a';", "module.exports={password:'hunter22'}"],
        ["password: process.env.PW", "e.type='password'", 'autocomplete: "new-password"'],
    ),
}


def found(path: str, text: str, *, pristine: bool = False) -> list[str]:
    node = Node(path.encode(), stat.S_IFREG | 0o600, 0, 0, len(text), 0, 2)
    hits = words(Sample(node, text.encode(), pristine=pristine))
    return [h.message for h in hits if h.check == "password" and "URL" not in h.message]


@pytest.mark.parametrize("line", FOUND)
def test_a_password_in_settings_is_found_once_and_not_shown(line: str) -> None:
    told = found("/etc/app.conf", f"# settings\n{line}\n")
    assert len(told) == 1
    assert not any(s in told[0] for s in ("hunter22", "bc1234", "ecr3t"))
    assert found("/grid/x.ini", f"# settings\n{line}\n") == told
    assert not found("/usr/share/x", line + "\n")
    assert not found("/etc/app.conf", line + "\n", pristine=True)


@pytest.mark.parametrize("line", NOTHING)
def test_what_only_speaks_of_passwords_is_not_found(line: str) -> None:
    assert not found("/etc/app.conf", f"# settings\n{line}\n")


@pytest.mark.parametrize("path", LITERALS)
def test_settings_that_are_programs_are_searched_for_literals_alone(path: str) -> None:
    secrets, harmless = LITERALS[path]
    assert [line for line in secrets if not found(path, line + "\n")] == []
    assert [line for line in harmless if found(path, line + "\n")] == []
    assert not found("/usr/lib/x" + path, "\n".join(secrets))
    assert not found(path, "\n".join(secrets), pristine=True)


def test_settings_are_everywhere_but_where_the_system_is() -> None:
    held = (b"/etc/a", b"/data/x/a", b"/env", b"/var/www/a.php", b"/usr/local/etc/a", b"/cvmfs/a")
    others = (b"/usr/share/a", b"/lib64/a", b"/proc/1/environ", b"/boot/config-6", b"/etc/pam.d/common-password",
              b"/var/lib/dpkg/info/x.config", b"/opt/v/lib/python3.11/site-packages/a.py", b"/srv/a.html")  # fmt: skip
    assert [p for p in held if not is_configuration(p)] == []
    assert [p for p in others if is_configuration(p)] == []
