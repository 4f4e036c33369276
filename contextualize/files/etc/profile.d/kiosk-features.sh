# Where jobs find this machine's features (HSF-TN-2016-02).
if [ -d /run/kiosk/machinefeatures ]; then
    export MACHINEFEATURES=/run/kiosk/machinefeatures
fi
