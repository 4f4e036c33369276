# Where jobs find this machine's features (HSF-TN-2016-02).
[ -d /run/kiosk/machinefeatures ] && export MACHINEFEATURES=/run/kiosk/machinefeatures
