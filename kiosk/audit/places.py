"""What is told by where it lies: state, identity and histories at the places where programs keep them, as data.

A path is a pattern: `*` within a name, `**` through folders. Only files that hold something count (empty ones are
what a clean image has), and not those that are to the byte what their package brought.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

from kiosk.audit.model import Hit
from kiosk.disk.volume import Node


@dataclass(frozen=True)
class Place:
    """Paths of one program's state. `links` when symbolic links count as well."""

    check: str
    what: str
    paths: tuple[str, ...]
    links: bool = False


def place(check: str, what: str, paths: str, *, links: bool = False) -> Place:
    """A place; paths are separated by spaces."""
    return Place(check, what, tuple(paths.split()), links)


PLACES: tuple[Place, ...] = (
    place("ssh-host-key", "an ssh host key", "/**/ssh_host_*_key /**/ssh_host_*_key.pub /**/ssh_host_*_key-cert.pub "
          "/**/ssh_host_key* /etc/dropbear/dropbear_*_host_key"),
    place("history", "a history of commands", "/**/.bash_history /**/.sh_history /**/.zsh_history /**/.ash_history "
          "/**/.ksh_history /**/.history /**/.tcsh_history /**/fish_history /**/.zhistory /**/.histfile"),
    place("history", "a history of a tool", "/**/.lesshst /**/.viminfo* /**/.nviminfo /**/.python_history "
          "/**/.*sql_history /**/.sqlite_history /**/.mariadb_history /**/.node_repl_history /**/.rediscli_history "
          "/**/.dbshell /**/.mongosh_repl_history /**/.gdb_history /**/.octave_hist /**/.Rhistory /**/.irb_history "
          "/**/.wget-hsts /**/.lftp/*history /**/.local/share/recently-used.xbel /**/.selected_editor /**/.sudo_as_admin_"
          "successful /**/.xsession-errors* /**/.lynx_cookies /**/.python-history /**/.netrwhist /**/.psql_history"),
    place("history", "hosts that a user went to", "/root/.ssh/known_hosts* /home/**/known_hosts* /**/.ssh/known_hosts*"),
    place("core-dump", "a core dump or crash report", "/var/crash/** /var/lib/systemd/coredump/** /var/spool/abrt/** "
          "/var/lib/apport/coredump/** /core /core.[0-9]* /root/core /root/core.[0-9]*"),
    place("machine-id", "the machine's identifier", "/etc/machine-id /var/lib/dbus/machine-id /etc/hostid "
          "/etc/kernel/entry-token /etc/kernel/install.conf.d/machine-id /ostree/repo/.machine-id "
          "/ostree/deploy/*/var/lib/dbus/machine-id /etc/adjtime.machine-id /var/lib/zmachine-id"),
    place("machine-id", "names of this machine", "/etc/machine-info"),
    place("random-seed", "a seed of random numbers or a secret of this machine", "/var/lib/systemd/random-seed "
          "/var/lib/urandom/random-seed /var/lib/random-seed /var/lib/misc/random-seed /var/lib/seedrng/** "
          "/**/loader/random-seed /var/lib/systemd/credential.secret /var/lib/systemd/tpm2-srk-public-key.*"),
    place("dhcp-lease", "a DHCP lease or client identifier", "/var/lib/dhcp/** /var/lib/dhclient/** /var/lib/dhcpcd/** "
          "/var/lib/dhcpcd5/** /var/lib/dhcp3/** /etc/dhcpcd.duid /etc/dhcpcd.secret /var/lib/NetworkManager/*.lease "
          "/var/lib/NetworkManager/*.lease6 /var/lib/NetworkManager/dhclient-* /var/lib/systemd/network/** "
          "/var/lib/wicked/** /var/db/dhcpcd/** /run/systemd/netif/leases/*"),
    place("network-identity", "NetworkManager's memory of this machine", "/var/lib/NetworkManager/secret_key "
          "/var/lib/NetworkManager/seen-bssids /var/lib/NetworkManager/timestamps /var/lib/NetworkManager/"
          "NetworkManager-intern.conf /var/lib/connman/** /var/lib/bluetooth/**"),
    place("network-identity", "names of network cards of this machine",
          "/etc/udev/rules.d/70-persistent-net.rules /etc/udev/rules.d/75-persistent-net-generator.rules "
          "/etc/udev/rules.d/*persistent-cd.rules /lib/udev/rules.d/70-persistent-net.rules"),
    place("network-identity", "the name servers of another network", "/etc/.resolv.conf.* /etc/resolv.conf.* "
          "/etc/resolv.conf"),
    place("cloud-init-state", "state of an instance", "/var/lib/cloud/instances/** /var/lib/cloud/instance/** "
          "/var/lib/cloud/data/** /var/lib/cloud/seed/** /var/lib/cloud/sem/** /var/lib/cloud/handlers/** "
          "/var/lib/waagent/** /var/lib/one-context/** /etc/cloud/cloud.cfg.d/90-installer-network.cfg "
          "/etc/cloud/cloud.cfg.d/99-installer.cfg"),
    place("cloud-init-state", "state of an instance", "/var/lib/cloud/instance", links=True),
    place("cvmfs-cache", "content of a CernVM-FS cache", "/var/lib/cvmfs/** /var/cache/cvmfs*/** /**/cvmfschecksum.* "
          "/**/.cvmfscache/** /var/spool/cvmfs/**"),
    place("log", "a log", "/var/log/** /**/lsf/log/* /var/adm/messages*"),
    place("mail", "mail", "/var/mail/** /var/spool/mail/** /**/dead.letter /root/mbox /root/Maildir/** "
          "/home/*/mbox /home/*/Maildir/** /var/spool/mqueue/** /var/spool/clientmqueue/** /var/spool/exim*/** "
          "/var/spool/postfix/active/** /var/spool/postfix/deferred/** /var/spool/postfix/defer/** "
          "/var/spool/postfix/incoming/** /var/spool/postfix/maildrop/** /var/spool/postfix/hold/** "
          "/var/spool/postfix/corrupt/** /var/lib/nullmailer/queue/** /var/spool/nullmailer/**"),
    place("user-job", "a user's crontab or job", "/var/spool/cron/** /var/spool/at/** /var/spool/atjobs/** "
          "/var/spool/atspool/** /var/at/**"),
    place("config-management", "Quattor", "/var/lib/ccm/** /var/ccm/** /etc/ccm.conf /etc/ccm/** /etc/quattor/** "
          "/var/quattor/** /etc/quattor.conf /etc/aii/** /var/lib/ncm/** /var/ncm/** /etc/ncm-ncd.conf "
          "/etc/ncm-cdispd.conf /etc/cdp-listend.conf /var/lock/quattor/** /etc/pan/** /etc/spma.conf /var/spma/** "
          "/var/lib/spma/** /var/lib/cdp-listend/**"),
    place("config-management", "Puppet", "/etc/puppet/ssl/** /etc/puppetlabs/puppet/ssl/** /var/lib/puppet/** "
          "/var/cache/puppet/** /opt/puppetlabs/puppet/cache/** /opt/puppetlabs/mcollective/** "
          "/etc/puppetlabs/puppet/puppet.conf /etc/puppet/puppet.conf /etc/puppetlabs/mcollective/** "
          "/var/opt/puppetlabs/** /etc/puppetlabs/facter/facts.d/* /etc/facter/facts.d/* /etc/puppetlabs/puppet/"
          "csr_attributes.yaml"),
    place("config-management", "Chef", "/etc/chef/** /etc/cinc/** /var/chef/** /var/lib/chef/** /var/cache/chef/** "
          "/var/opt/chef/**"),
    place("config-management", "Salt", "/etc/salt/minion_id /etc/salt/pki/** /var/cache/salt/** /etc/salt/grains "
          "/etc/salt/minion.d/_schedule.conf /etc/salt/minion.d/*.conf /etc/salt/minion /srv/salt/** /srv/pillar/**"),
    place("config-management", "CFEngine", "/var/cfengine/ppkeys/** /var/cfengine/state/** /var/cfengine/inputs/** "
          "/var/cfengine/policy_server.dat /var/lib/cfengine*/**"),
    place("config-management", "Ansible, Foreman or mgmt", "/etc/ansible/facts.d/** /**/.ansible/** "
          "/etc/rhsm/facts/** /etc/foreman*/** /var/lib/mgmt/** /etc/tuned/active_profile.machine"),
    place("monitoring-identity", "Lemon", "/etc/lemon/** /var/spool/edg-fmon-agent/** /var/lib/lemon/** /etc/lemon.conf "
          "/var/lib/lemonmon/** /etc/edg-fmon-agent.conf /var/spool/lemon-agent/**"),
    place("monitoring-identity", "state or identity of monitoring", "/var/lib/icinga2/certs/** /var/lib/icinga2/api/** "
          "/var/lib/icinga2/icinga2.state /etc/icinga2/pki/** /etc/nagios/nrpe_local.cfg /etc/nagios/ssl/** "
          "/var/lib/nagios/** /etc/zabbix/*.psk /etc/zabbix/zabbix_agentd.conf /etc/zabbix/zabbix_agent2.conf "
          "/etc/zabbix/zabbix_agentd.conf.d/* /etc/zabbix/zabbix_agentd.d/* /var/lib/check_mk_agent/** "
          "/var/lib/cmk-agent/** /etc/check_mk/** /var/lib/netdata/** /var/cache/netdata/** /var/lib/ganglia/** "
          "/etc/ganglia/gmond.conf /var/lib/collectd/** /etc/collectd/collectd.conf /etc/collectd.conf "
          "/var/lib/munin*/** /etc/telegraf/** /var/lib/telegraf/** /var/lib/filebeat/** /var/lib/metricbeat/** "
          "/etc/datadog-agent/** /etc/newrelic-infra.yml /var/lib/osquery/** /etc/osquery/** "
          "/var/ossec/etc/client.keys /var/ossec/queue/** /var/log/sa/** /var/log/sysstat/** "
          "/var/lib/prometheus/** /var/lib/fluent*/** /var/lib/rsyslog/** /var/spool/rsyslog/** "
          "/etc/prometheus/** /var/lib/smartmontools/** /var/lib/pcp/** /var/lib/mcelog/** /etc/monit/id "
          "/var/lib/monit/** /root/.monit.* /var/lib/fail2ban/**"),
    place("batch-state", "LSF", "/etc/lsf.conf /etc/lsf/** /etc/lsf.* /etc/profile.d/lsf* /var/lsf/** /**/lsf/conf/** "
          "/**/lsf.conf /**/lsf.cluster.* /**/lsf.shared /**/lsb.hosts /**/lsb.queues /**/lsb.users /**/lsb.params /**/lsb.acct* "
          "/**/lsb.events* /**/lsb.modules /**/lsb.resources /**/ego.conf /**/ego.cluster.* /**/lsf.sudoers "
          "/**/lsf.licensescheduler /**/lsfpool* /**/lsf_tmp/** /tmp/.lsbatch/** /**/.lsbatch/** /usr/share/lsf/conf/** "
          "/var/spool/lsf/** /**/hostsetup.conf"),
    place("batch-state", "Slurm", "/etc/slurm/** /etc/slurm-llnl/** /var/spool/slurm*/** /var/lib/slurm*/** "
          "/var/lib/slurm-llnl/** /**/slurm.conf /**/slurmdbd.conf /**/gres.conf /**/cgroup_slurm.conf "
          "/etc/munge/munge.key /var/lib/munge/** /**/slurm.key /**/slurm.jwks /**/jwt_hs256.key"),
    place("batch-state", "HTCondor", "/etc/condor/** /etc/condor-ce/** /var/lib/condor/** /var/lib/condor-ce/** "
          "/var/spool/condor/** /root/.condor/** /home/*/.condor/** /var/lock/condor/**"),
    place("batch-state", "PBS, Torque or Grid Engine", "/etc/pbs.conf /etc/torque/** /var/spool/pbs/** "
          "/var/spool/torque/** /var/lib/torque/** /var/torque/** /var/spool/gridengine/** /var/lib/gridengine/** "
          "/etc/gridengine/** /opt/sge/*/common/** /opt/sge/*/spool/** /opt/pbs/etc/pbs.conf /etc/default/gridengine"),
    place("batch-state", "grid middleware's host configuration", "/etc/arc.conf /etc/siteinfo/** /opt/glite/yaim/etc/** "
          "/root/siteinfo/** /root/site-info.def /etc/blah.config /etc/grid-security/grid-mapfile "
          "/etc/grid-security/gridmapdir/** /var/lib/apel/**"),
    place("directory-state", "sssd's database and cache", "/var/lib/sss/db/** /var/lib/sss/mc/** /var/lib/sss/secrets/** "
          "/var/lib/sss/pubconf/** /var/lib/sss/gpo_cache/** /etc/sssd/sssd.conf /etc/sssd/conf.d/*"),
    place("directory-state", "FreeIPA or a realm", "/etc/ipa/default.conf /etc/ipa/ca.crt /etc/ipa/nssdb/** "
          "/var/lib/ipa-client/** /var/lib/ipa/** /var/lib/certmonger/** /var/cache/realmd/** /var/lib/adcli/**"),
    place("directory-state", "Samba or winbind", "/var/lib/samba/** /etc/samba/secrets.tdb /etc/samba/smbpasswd "
          "/var/cache/samba/** /**/secrets.tdb /**/passdb.tdb"),
    place("directory-state", "AFS", "/var/cache/openafs/** /usr/vice/cache/** /var/lib/openafs/** "
          "/usr/afs/etc/** /etc/openafs/server/** /usr/vice/etc/afsid /var/cache/afs/**"),
    place("directory-state", "LDAP or NIS", "/etc/ldap.secret /etc/pam_ldap.secret /etc/libnss-ldap.secret "
          "/var/lib/ldap/** /var/yp/** /etc/yp.conf /etc/nslcd.conf /var/cache/nscd/** /var/db/nscd/** "
          "/var/lib/unscd/** /var/lib/nscd/**"),
    place("storage-identity", "names of this machine for disks", "/etc/iscsi/initiatorname.iscsi /var/lib/iscsi/** "
          "/etc/iscsi/nodes/** /etc/nvme/hostnqn /etc/nvme/hostid /etc/nvme/discovery.conf /etc/multipath/wwids "
          "/etc/multipath/bindings /etc/multipath/prkeys /var/lib/multipath/**"),
    place("storage-identity", "a description of this machine's disks", "/etc/lvm/backup/** /etc/lvm/archive/** "
          "/etc/lvm/devices/** /etc/lvm/cache/** /run/blkid/** /etc/blkid.tab* /etc/blkid/** "
          "/etc/zfs/zpool.cache /var/lib/mdadm/** /etc/zfs/zfs-list.cache/** /boot/efi/loader/random-seed"),
    place("subscription", "registration of this machine", "/etc/pki/consumer/** /etc/pki/entitlement/** "
          "/var/lib/rhsm/** /etc/sysconfig/rhn/systemid /etc/rhsm/rhsm.conf /etc/zypp/credentials.d/** /etc/SUSEConnect "
          "/var/lib/ubuntu-advantage/** /etc/ubuntu-advantage/** /etc/popularity-contest.conf /var/lib/yum/uuid "
          "/etc/yum/vars/uuid /etc/insights-client/** /var/lib/insights/** /var/lib/snapd/device/** "
          "/var/lib/snapd/assertions/** /etc/apt/auth.conf /etc/apt/auth.conf.d/* /var/lib/dnf/countme* "
          "/var/lib/PackageKit/** /etc/landscape/** /var/lib/landscape/** /var/lib/apport/autoreport"),
    place("temporary-file", "left from the making of the image", "/tmp/** /var/tmp/** /run/** /var/run/** /dev/shm/** "
          "/var/lock/**"),
)  # fmt: skip


def state(nodes: Iterable[Node], pristine: Collection[bytes]) -> Iterator[Hit]:
    """The places at which something lies. `pristine` are the files that are what their package brought."""
    by_path, by_name = _compiled()
    for node in nodes:
        m = by_name.fullmatch(node.path.rpartition(b"/")[2]) or by_path.fullmatch(node.path)
        if m is None or m.lastindex is None:
            continue
        found = PLACES[m.lastindex - 1]
        is_file = stat.S_ISREG(node.mode) and node.size > 0 and node.path not in pristine
        if is_file or (found.links and stat.S_ISLNK(node.mode)):
            yield Hit(found.check, node.path, found.what)


@cache
def _compiled() -> tuple[re.Pattern[bytes], re.Pattern[bytes]]:
    """One expression for paths and one for names in any folder, which is most of the work; in both the number of
    the group is that of the place."""
    paths, names = [], []
    for found in PLACES:
        anywhere = [p[4:] for p in found.paths if p.startswith("/**/") and "/" not in p[4:]]
        fixed = [p for p in found.paths if p[4:] not in anywhere or not p.startswith("/**/")]
        paths.append(_either(fixed))
        names.append(_either(anywhere))
    return tuple(re.compile("|".join(each).encode(), re.DOTALL) for each in (paths, names))  # type: ignore[return-value]


def _either(patterns: Sequence[str]) -> str:
    return "(" + ("|".join(map(_expression, patterns)) or "(?!)") + ")"


def _expression(pattern: str) -> str:
    """A pattern as an expression for bytes."""
    out = ""
    for part in re.findall(r"/\*\*/|\*\*|\*|\[[^\]]+\]|[^*\[/]+|/", pattern):
        if part == "/**/":
            out += "/(?:.*/)?"
        elif part == "**":
            out += ".+"
        elif part == "*":
            out += "[^/]*"
        elif part.startswith("["):
            out += part
        else:
            out += re.escape(part)
    return out
